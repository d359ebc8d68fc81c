"""Containment as desired state: the row, the guards before it, and the reconciler after it.

`service` is the one place where a containment row is written; a trust signal goes with it in the same transaction.
"""
