"""What `tools/bench/modules.py` measures beside our modules, and the processor that it does so on."""
