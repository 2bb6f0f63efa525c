"""Records and names that every step shares: prompts, rollouts and scores (`types`), and hashes of content (`hashing`).

Read `types` first: it has the records and the notation of arrays. `files` reads records from Parquet and ranks token
ids by frequency, `sampling` has the parameters of a sampler, and `prompt_sharing` finds equal prompts.
Every package may import it; it imports `runtime` and `schemas` only.
"""
