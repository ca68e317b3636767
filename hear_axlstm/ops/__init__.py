"""Fast implementations of the operations in `hear_axlstm.models` for each type of hardware.

`backends.py` selects one; `contract.py` describes their interfaces. Which code computes a block:

    training on a CPU       cpu_mixer.py; csrc/dispatch.cpp with around_cell.h,
                            around_cell_backward.h, weighted_sum.h and products.h;
                            projections: matmul.py
    embedding on a CPU      cpu_block.py; csrc/block.cpp, which calls the same functions
    - by MKL or oneDNN      where these are faster: packed_linear.py, and cpu_mixer.py between
    on an NVIDIA GPU        the cell: triton_impl.py, triton_operators.py, triton_kernels.py
    elsewhere               torch_impl.py

fuse.py fuses the weights for a CPU, and library.py calls the compiled functions.
"""
