"""Device identity: hierarchy, profiles, enrolment, revocation and status."""
