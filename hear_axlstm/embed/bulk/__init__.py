"""`axlstm embed`: many files to files of embeddings."""
