"""How many instructions an inference takes on an emulated Cortex-M4 and Cortex-M55."""
