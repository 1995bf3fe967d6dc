"""Whether a session that XNAT holds under our label is the session of this delivery, or somebody else's.

The same StudyInstanceUID is the same session: XNAT itself merges by it. Our mark says so as well, also where anonymisation has
replaced the identifier. A session without one (prepared by hand, or of other data) or a delivery without images is a matter of
label and subject: files are added, never replaced. Another study is left alone: appending would override XNAT's own check.
"""

from lading.delivery import DeliveryId
from lading.errors import Refused
from xnat_importer.errand import Errand, Target
from xnat_importer.target import Archived, Repository

_SAFE = "Nothing was changed. The files are in the inbox."


def demand_ours(errand: Errand, archived: Archived) -> None:
    """Raises Refused when the session is not this delivery's, or the route says that it must not be added to."""
    target, repository = errand.target, errand.repository
    if archived.project != target.project:
        raise Refused(
            f"importing {target}: the project shows a session {target.session} already, shared from {archived.project}",
            safe=_SAFE,
            next_command=f"lading fix {errand.delivery} --session OTHER-LABEL",
        )
    if archived.study == target.study and errand.claimed:
        return
    if repository.delivery_is_marked(archived, errand.delivery):
        return
    # Where identifiers are rewritten, ours cannot be recognised by them; having sent something under a free label must do.
    if target.anonymised and errand.claimed and errand.has_sent:
        return
    demand_same_study(target, archived, errand.delivery)
    if errand.route.on_existing == "refuse":
        raise Refused(
            f"importing {target}: the session is in XNAT already and the route says on_existing = 'refuse'",
            safe=_SAFE,
            next_command=f"lading fix {errand.delivery} --session OTHER-LABEL",
        )
    demand_subject(repository, target, archived, errand.delivery)


def demand_same_study(target: Target, archived: Archived, delivery: DeliveryId) -> None:
    """Raises Refused when the session is of another study. Where either has none, there is nothing to contradict."""
    if archived.study == target.study or not archived.study or not target.study:
        return
    raise Refused(
        f"importing {target}: the project has a session {target.session} already, of another study "
        f"({archived.study}, not {target.study}); session labels are unique in a project (see import.session_label)",
        safe=_SAFE,
        next_command=f"lading fix {delivery} --session OTHER-LABEL",
    )


def demand_subject(repository: Repository, target: Target, archived: Archived, delivery: DeliveryId) -> None:
    """Raises Refused when the session belongs to another subject."""
    if archived.subject_id and archived.subject_id != repository.subject_id(target.project, target.subject):
        raise Refused(
            f"importing {target}: session {target.session} belongs to another subject in XNAT "
            f"({archived.subject_id}); session labels are unique in a project (see import.session_label)",
            safe=_SAFE,
            next_command=f"lading fix {delivery} --participant THAT-SUBJECT",
        )
