"""The commands; run them by `accelerate launch` or as `decoct NAME`."""
