"""DeMe, Decouple-then-Merge: finetune a diffusion model by timestep ranges, merge the results into one model.

Nothing is re-exported here: DVC hashes the files behind each stage, and an `__init__` that imports everything
would put every file behind every stage.
"""
