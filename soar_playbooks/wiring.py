"""What containment brings to the house."""

from lachan.wiring import Room

WIRING = Room(
    tables="soar_playbooks.models",
    settings="soar_playbooks.settings:SoarSettings",
    handlers={
        "AlertRaised": ("soar_playbooks.runs.triggers:on_alert_raised",),
        "DeviceChanged": ("soar_playbooks.containment.criticality:on_device_changed",),
    },
    jobs={
        "soar.run": "soar_playbooks.runs.executor:run_job",
        "soar.verify": "soar_playbooks.containment.reconciler:verify",
        "soar.enforce": "soar_playbooks.containment.reconciler:enforce",
        "soar.expire": "soar_playbooks.containment.service:expire",
        "soar.undo": "soar_playbooks.runs.undo:run_job",
        "soar.webhook": "soar_playbooks.webhooks:deliver",
    },
    recurring={
        "soar.reconcile": (5.0, "soar_playbooks.containment.reconciler:reconcile"),
        "soar.sweep": (30.0, "soar_playbooks.runs.triggers:sweep"),
    },
    verbs=(
        "soar_playbooks.containment.verbs:SET",
        "soar_playbooks.containment.verbs:RELEASE",
        "soar_playbooks.containment.verbs:PAGE",
    ),
    enforcement=("soar_playbooks.enforcement.mosquitto:point",),
)
