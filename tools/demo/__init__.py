"""The demos: a teacher, a student alone and the same student distilled, on handwritten digits."""

import warnings

# Detectron2 compiles a function with it as it is imported: nothing that someone at a demo can do.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
