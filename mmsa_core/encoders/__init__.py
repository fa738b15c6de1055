"""Turn one modality's sequence into one vector."""
