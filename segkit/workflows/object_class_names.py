"""Whether the classes of true and predicted objects can be compared, and which of them are the same."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from segkit.data.classes import BACKGROUND, FOREGROUND
from segkit.evaluation.object_classes import ANY_CLASS
from segkit.workflows.callbacks import OnNote
from segkit.workflows.class_codes import Codes, common_classes


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedClasses:
    """The classes of objects that truth and prediction both tell apart.

    `names` are by index, background first, and empty where class is not looked at; `name` is what stands for all
    objects; `of_true` and `of_predicted` have the class index of each class, by the name that its own folder gives it.
    """

    name: str
    names: tuple[str, ...] = ()
    of_true: Mapping[str, int] = field(default_factory=dict)
    of_predicted: Mapping[str, int] = field(default_factory=dict)


def tells_classes(names: Collection[str]) -> bool:
    """Tell whether objects of these classes are told apart, or none are there: one class for all is none."""
    return not set(names) - {BACKGROUND} or bool(set(names) - {BACKGROUND, FOREGROUND})


def shared_classes(
    truth: Codes, prediction: Codes | None, *, truth_tells: bool, prediction_tells: bool, on_note: OnNote
) -> SharedClasses:
    """Return the classes that objects are matched within; where only one side tells them, it is said that they are not.

    Names that nobody chose (`class_1`) stand for classes by their order, which is said.

    Parameters
    ----------
    truth, prediction
        The classes of both; None: the prediction has none.
    truth_tells, prediction_tells
        Whether they say the class of each object.

    Raises
    ------
    InputError
        Their names differ.
    """
    own = truth.names or ()
    names, of_true = own, truth.index_of
    of_predicted: Mapping[int, int] = {}
    if prediction is not None:
        # Also where objects are matched whatever their class: those of other classes are other objects.
        common = common_classes(truth, prediction, on_note)
        names, of_true, of_predicted = common.classes, common.index_of_true, common.index_of_predicted
    if truth_tells and prediction_tells and len(names) > 2:
        return SharedClasses(
            name=ANY_CLASS,
            names=names,
            of_true=_by_name(truth, of_true, names, on_note),
            of_predicted={} if prediction is None else _by_name(prediction, of_predicted, names, on_note),
        )
    if len(names) > 2:
        told = own if len(own) > 2 else names
        on_note(
            f"{'the prediction' if len(own) > 2 else 'the truth'} does not say the class of each object, and "
            f"{'the truth' if len(own) > 2 else 'the prediction'} has {', '.join(told[1:])}: objects are matched "
            "whatever their class, and a wrong class costs nothing"
        )
    told = own if len(own) == 2 else names
    return SharedClasses(name=told[1] if len(told) == 2 else ANY_CLASS)


def _by_name(codes: Codes, index_of: Mapping[int, int], names: tuple[str, ...], on_note: OnNote) -> dict[str, int]:
    """Return the common index of each class by its folder's name for it, and say it where that is another name."""
    own = codes.names or ()
    indices = {own[place]: index_of[value] for value, place in codes.index_of.items() if 0 < place < len(own)}
    renamed = [f"{name} for {names[index]}" for name, index in indices.items() if name != names[index]]
    if renamed:
        on_note(f"{codes.folder}: classes are taken by their order: {', '.join(renamed)}")
    return indices
