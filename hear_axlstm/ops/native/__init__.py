"""What an mLSTM block computes, and what a probe learns by, in compiled C++; optional.

`pip install` compiles it where there is a C++ compiler; HEAR_AXLSTM_NATIVE=0 in the environment
leaves it unused.
"""

from hear_axlstm.ops.native.block import is_usable, mix
from hear_axlstm.ops.native.library import is_in_use, product_dtype
from hear_axlstm.ops.native.memory import Memory
from hear_axlstm.ops.native.projection import Projection

__all__ = ["Memory", "Projection", "is_in_use", "is_usable", "mix", "product_dtype"]
