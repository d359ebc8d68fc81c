"""What containment brings to the house."""

from lachan.wiring import Begin, Every, Lane, Rank, Room, Work

WIRING = Room(
    tables="soar_playbooks.models",
    settings="soar_playbooks.settings:SoarSettings",
    handlers={
        "DeviceChanged": (
            Work("soar_playbooks.containment.criticality:on_device_changed", lane=Lane.URGENT, deadline=60.0),
        ),
        "IdentityContested": (Work("soar_playbooks.contested:on_contested", lane=Lane.ORDINARY, deadline=30.0),),
    },
    begins={
        "AlertRaised": (
            Begin("soar.alert", only=("device_id", "subject_bound")),
            Begin("soar.notify", unless=("subject_bound",)),
        ),
    },
    jobs={
        "soar.alert": Work("soar_playbooks.runs.triggers:run_job", lane=Lane.URGENT, deadline=60.0),
        "soar.notify": Work("soar_playbooks.runs.triggers:notify", lane=Lane.ORDINARY, deadline=30.0),
        "soar.http": Work("soar_playbooks.runs.asking:run_job", lane=Lane.SLOW, deadline=90.0, serial=True),
        "soar.run": Work("soar_playbooks.runs.executor:run_job", lane=Lane.URGENT, deadline=60.0),
        "soar.verify": Work(
            "soar_playbooks.containment.reconciler:verify", lane=Lane.URGENT, deadline=30.0, rank=Rank.FIRST
        ),
        "soar.enforce": Work(
            "soar_playbooks.containment.reconciler:enforce",
            lane=Lane.URGENT,
            deadline=30.0,
            rank=Rank.FIRST,
            serial=True,
            most=2,
        ),
        "soar.expire": Work(
            "soar_playbooks.containment.service:expire", lane=Lane.URGENT, deadline=30.0, rank=Rank.FIRST
        ),
        "soar.undo": Work("soar_playbooks.runs.undo:run_job", lane=Lane.URGENT, deadline=60.0, rank=Rank.FIRST),
        "soar.webhook": Work("soar_playbooks.webhooks:deliver", lane=Lane.SLOW, deadline=30.0, serial=True),
    },
    recurring={
        "soar.reconcile": Every(
            5.0, "soar_playbooks.containment.reconciler:reconcile", lane=Lane.ORDINARY, deadline=60.0
        ),
        "soar.sweep": Every(30.0, "soar_playbooks.runs.triggers:sweep", lane=Lane.ORDINARY, deadline=60.0),
    },
    verbs=(
        "soar_playbooks.containment.verbs:SET",
        "soar_playbooks.containment.verbs:RELEASE",
        "soar_playbooks.containment.verbs:PAGE",
    ),
    enforcement=("soar_playbooks.enforcement.mosquitto:point",),
    health={"reconciler": "soar_playbooks.health:check"},
)
