"""Any HEAR module in other benchmarks: one file each, an extra each, imported by nothing else."""
