"""The harness: spaces, studies, the ledger, distribution over Ray Tune, confirmation, reports, export and the command
line."""
