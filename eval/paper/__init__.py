"""The tables of the AxLSTM paper: training their rows and scoring them."""
