"""What the ledger brings to the house."""

TABLES = "lachan.ledger.models"
RECURRING = {"ledger.seal": (1.0, "lachan.ledger.sealer:seal")}
SIGNING = {"checkpoint": "lachan.ledger.signing:checkpoint"}
SIGNED = {"checkpoint": "lachan.ledger.signing:is_known"}
INIT = ("lachan.ledger.setup:init",)
