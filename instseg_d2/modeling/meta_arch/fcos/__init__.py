"""FCOS as CondInst, BCNet and CPMask need it, over detectron2's."""
