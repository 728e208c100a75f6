"""The demos: a teacher, a student alone and the same student distilled, on handwritten digits."""

import warnings

# Detectron2 calls it when it is imported; users of the demo cannot change that.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
