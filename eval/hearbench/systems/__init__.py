"""Other systems behind the HEAR API, to compare with."""
