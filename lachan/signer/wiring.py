"""What the signer brings to the house."""

TABLES = "lachan.signer.models"
RECURRING = {"signer.reconcile": (60.0, "lachan.signer.reconcile:reconcile")}
