"""Candidates of a run as the command line names them, and what is left of their training."""

from cluster.checkpoints import Checkpoint, CheckpointStore
from cluster.ledger import Row
from cluster.report import newest, rank
from cluster.run import Run
from cluster.trial import candidate_folder
from networks.errors import UserError


def find_candidate(run: Run, name: str | None) -> Row:
    """The newest row of the candidate of this number or id; of the best so far where no name is given. Raises
    `UserError` when there is none."""
    rows = newest(run.ledger.rows())
    best = rank(rows, run.recipe.metric)[:1]
    if not best or (name is None and best[0].status == "failed"):
        fix = "None of this one has been scored yet." if not best else "Here all have failed."
        raise UserError("RUN", run.name, "a run with candidates", fix)
    if name is None:
        return best[0]
    for row in rows:
        if name in (str(row.candidate.ask_index), row.candidate.id):
            return row
    allowed = f"0 to {len(rows) - 1}, or an id that weft show {run.name} lists"
    raise UserError("CANDIDATE", name, allowed)


def trained_state(run: Run, row: Row) -> Checkpoint:
    """The newest checkpoint of a grid's candidate. Raises `UserError` when there is none."""
    store = CheckpointStore(candidate_folder(run.folder, row.candidate))
    stored = store.epochs()
    while stored:
        found = store.newest()
        if found is not None:
            return found
        before, stored = stored, store.epochs()
        if stored == before:  # else the search has replaced them meanwhile
            raise UserError("checkpoint", str(store.folder), "a whole checkpoint, unaltered")
    raise untrained(run, str(row.candidate.ask_index))


def untrained(run: Run, name: str) -> UserError:
    """The refusal of a candidate without a checkpoint."""
    fix = f"There is none in {run.name}: it failed early, or weft gc has removed it."
    return UserError("CANDIDATE", name, "a candidate with a checkpoint", fix)
