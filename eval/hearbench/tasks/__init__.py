"""HEAR task folders: reading, checking and fetching them."""
