"""Seal the event table in a Merkle tree, sign checkpoints, make and verify proofs (design decision 2).

Pure, and all that an offline auditor needs: `merkle`, `note`, `verify`. In the worker: `sealer` (leaves, checkpoint, files),
`tree` (hashes from the database), `tiles` (C2SP tlog-tiles). In the signer: `signing`. For people: `export` and `cli`.
"""
