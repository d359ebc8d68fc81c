"""Signed playbooks, their runs, and containment: what happens to a device that is not fit.

A fact (``AlertRaised``) starts a run of a signed CACAO 2.0 playbook; the run's journal is written before and after each
effect; the one thing a run may change in the world is a containment row, which passes the guards, reaches
``lachan.trust`` in the same transaction and is driven into brokers and firewalls by the reconciler. Undo is the row ended.
"""
