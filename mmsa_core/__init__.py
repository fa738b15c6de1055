"""The model, its plug-ins, data, metrics and training loop, in PyTorch alone."""

import os

# MKL's products round by the alignment of their memory, which follows a member's place among the others: reproducible
# mode makes a member's numbers its own. MKL reads it at its first product; it costs no measurable time
os.environ.setdefault("MKL_CBWR", "AUTO")
