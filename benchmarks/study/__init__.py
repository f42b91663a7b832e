"""What the loss buys: training objectives compared on several seeds. `run.py` is the command."""
