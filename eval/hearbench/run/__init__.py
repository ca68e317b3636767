"""What an evaluation computes, and computing it, restartable."""
