"""Errors of identity."""

from lachan.errors import Conflict, Gone, Invalid, Unauthenticated


class BadToken(Unauthenticated):
    """The token is malformed, unknown, expired or revoked."""

    title, hint = "Token not accepted", "Ask an administrator for a new token: lachan token add."


class BadLink(Gone):
    """The sign-in link was used, is older than 15 minutes, or never was one."""

    title, hint = "Sign-in link not valid", "Ask an administrator for a new one: lachan user link NAME."


class NoSession(Unauthenticated):
    """The session ended or never was."""

    title, hint = "Signed out", "Sign in again with a new link: lachan user link NAME."


class BadCsrf(Invalid):
    """A write came without the session's CSRF token."""

    status, title, hint = 403, "Request not from our page", "Reload the page and try again."


class NameTaken(Conflict):
    """A person of that name exists."""

    title, hint = "Name taken", "Choose another name."


class Outlives(Invalid):
    """A token would outlive the token that makes it."""

    title, hint = "The token would last too long", "Ask for fewer days, or have a person make it."


class BadRoles(Invalid):
    """The roles do not fit together with vendor or site."""

    title, hint = "Roles do not fit", "A manufacturer needs --vendor; a collector needs --site."
