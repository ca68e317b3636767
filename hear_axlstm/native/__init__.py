"""What an mLSTM block computes between its matrix products, by compiled C++; optional.

`pip install` compiles it where there is a C++ compiler; HEAR_AXLSTM_NATIVE=0 in the environment
leaves it unused.
"""

from hear_axlstm.native.block import is_usable, mix
from hear_axlstm.native.library import is_in_use

__all__ = ["is_in_use", "is_usable", "mix"]
