"""What a device needs beside the module, and what this machine needs to build and prove for it."""
