"""The weights that the authors publish: finding, downloading, reading and converting them.

published           the list of weights, and their files in the user's cache
fetch               gets one into the cache, from Google Drive (drive) or from a file
runs, archives      the checkpoint among the files of a run, in folders and zips
reference_release   a checkpoint of the release -> settings and tensors of this package
safe_load, pickles  reading a checkpoint without executing what is in it
"""
