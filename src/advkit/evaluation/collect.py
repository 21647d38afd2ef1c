"""The record of every batch: found in the run's folder, made here, or made by the other processes."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from advkit._io.identity import Digest, digest, digests
from advkit.errors import InputError, ModelError
from advkit.evaluation.batch_evaluator import BatchEvaluator
from advkit.evaluation.pool import Pool
from advkit.evaluation.records import Record
from advkit.evaluation.runs import Ranks, RunFolder
from advkit.evaluation.summary import hopeless

__all__ = ["check_worked", "collect"]


def collect(
    batches: Iterable[tuple[int, Tensor, Tensor]],
    evaluator: BatchEvaluator,
    folder: RunFolder,
    ranks: Ranks,
    pool: Pool | None,
) -> tuple[dict[int, Record], str]:
    """The records of all batches, found in the folder, made here, or made by others; and a name for all the images.

    Args:
        batches: index, images and labels of each; those without images are passed over.
        evaluator: makes records.
        folder: keeps them.
        ranks: the processes that share the work.
        pool: picks the images that flags are looked for on, of each batch; None for no flags.
    """
    records = folder.load()
    evaluator.found_already(one for record in records.values() for one in record.pictures)
    stored = set(records)
    unsaved: list[int] = []
    known = not stored  # nothing is added to a run before it is known to be this one
    named: dict[int, str] = {}
    all_images = Digest()
    for index, images, labels in batches:
        mine = index not in stored and index % ranks.count == ranks.rank
        if not mine or not len(images):
            evaluator.tick(len(evaluator.plan))
        if not len(images):
            continue
        is_first = not named
        each = digests(images, labels)
        all_images.add(*each)
        named[index] = digest(*each)
        if is_first and set(ranks.gather(named[index])) != {named[index]}:
            raise InputError(_DIFFERENT)
        if index in stored:
            folder.check_batch(index, records[index].digest, named[index])
            if records[index].answers:
                folder.check_model(index, evaluator.stranger(index, records[index], images))
                records[index].answers = []
            known = True
        if mine:
            records[index] = evaluator(index, named[index], images, labels)
            if folder.path is not None and not evaluator.first_error():  # a mistake may be mended until the run goes on
                records[index].answers = evaluator.asked(index, images)
                unsaved.append(index)
        while known and unsaved:
            folder.save(unsaved[0], records[unsaved.pop(0)])
        if pool:
            pool.offer(index, images, labels, records.get(index) if index % ranks.count == ranks.rank else None)
    everyones = ranks.gather((named, records))
    if any(theirs != named for theirs, _ in everyones):
        raise InputError(_DIFFERENT)
    for _, theirs in everyones:
        records |= theirs
    return {index: records[index] for index in named}, str(all_images)


def check_worked(records: Mapping[int, Record], evaluator: BatchEvaluator) -> None:
    """Refuse to report nothing: no images, or something that failed on all of them."""
    if not records:
        raise InputError("the loader has no images; a generator that was iterated over before has none left")
    if error := hopeless(records.values(), without_gradients=evaluator.has_black_box):
        raise evaluator.first_error() or ModelError(f"something failed on every image: {error}")


_DIFFERENT = (
    "the processes have loaders with different batches, but evaluate distributes the batches itself: give all of "
    "them the same loader, without shuffling and without a DistributedSampler"
)
