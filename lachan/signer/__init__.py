"""The only process that holds private keys; it takes typed requests, never bytes (design decision 5).

The rest of lachan meets `lachan.signer.client.SignerClient`. Inside the signer process: `keys` (what holds them), `server` (the
socket), `dispatch` (limits, log, the rooms' handlers), `siglog` (every signature and refusal, durable before the answer),
`relay` (carries refusals into the outbox). `reconcile` runs in the worker and compares that log with the database.
Limits: docs/limitations.md says what one shared user and a passphrase kept beside the key do not protect.
"""
