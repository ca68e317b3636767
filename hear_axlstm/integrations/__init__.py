"""The model in other libraries' terms: scikit-learn, mteb (MAEB), X-ARES and transformers.

Each file needs the extra of its name, and nothing else imports it.
"""
