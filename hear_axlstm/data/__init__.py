"""From a folder of audio to training batches: pack once, then crop from memory-mapped shards."""
