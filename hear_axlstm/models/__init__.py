"""The network as the paper describes it, in plain PyTorch."""
