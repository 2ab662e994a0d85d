"""The main job, shown: a guest boots, measured into a virtual TPM whose keys a chip holds."""
