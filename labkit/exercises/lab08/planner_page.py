"""Shows the best plan for a model, a GPU, a link, a precision and a bound, as a page with menus or as one figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labkit.planning.catalogue import GPUS, LINKS, named_gpu, with_link
from labkit.planning.named_shapes import SHAPES, named_shape
from labkit.planning.plots import plans_plot
from labkit.planning.published import default_fit
from labkit.planning.search import Answer, Question, search

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OWN_LINK = "the GPU's own"
PRECISIONS = ("fp16", "int8", "int4", "fp8")
MENUS = {"gpus": [8, 1, 2, 4, 16, 32, 64], "bound_ms": [300, 100, 600, 1000, 2000, 5000]}
"""The choices of two menus; the first choice is selected at the start."""


def ask(model: str, gpu: str, link: str, precision: str, gpus: int, bound_ms: float) -> tuple[Question, Answer]:
    """Return the question, and the answer of labkit's search for 60 prompt tokens and 20 new tokens, best plan first."""
    device = with_link(named_gpu(gpu), None if link == OWN_LINK else link)
    question = Question(
        named_shape(model),
        device,
        gpus=gpus,
        latency_seconds=bound_ms / 1e3,
        precisions=(precision,),
        input_tokens=60,
        output_tokens=20,
    )
    return question, search(question, default_fit())


def sentence(answer: Answer) -> str:
    """The best plan in words, with its interval and what dominates its time; or why there is no plan."""
    if not answer.plans:
        return f"No plan: {answer.why_none}."
    best = answer.plans[0]
    predicted = best.predicted
    beyond = f" Extrapolated: {'; '.join(predicted.beyond)}." if predicted.beyond else ""
    return (
        f"Best of {answer.tried} plans: TP {best.plan.tensor_parallel} x PP {best.plan.pipeline_parallel}, batch "
        f"{best.plan.batch}: {1e3 * predicted.seconds:,.0f} ms ({1e3 * predicted.low:,.0f} to {1e3 * predicted.high:,.0f}), "
        f"{best.memory.total / 2**30:.1f} GiB on each GPU, {best.tokens_per_second_per_gpu:,.0f} tokens per second per GPU; "
        f"mostly {predicted.dominated_by}.{beyond}"
    )


def best_plan(
    model: str = "gpt-20b",
    gpu: str = "a100-80gb",
    link: str = OWN_LINK,
    precision: str = "fp16",
    gpus: int = 8,
    bound_ms: float = 300,
) -> Figure | None:
    """Print the best plan, and return the figure of all plans, or None if no plan fits in memory.

    This function replaces the page with menus where widgets do not run. Raises `InvalidRequest` for a name that is not in the
    catalogue, and for a precision that the GPU does not have.
    """
    question, answer = ask(model, gpu, link, precision, gpus, bound_ms)
    print(sentence(answer))
    return plans_plot(question, answer) if answer.all_plans else None


def show() -> None:
    """Show `best_plan` with a menu for each choice. For an impossible choice, print a sentence that says why."""
    from ipywidgets import interact

    from labkit.errors import InvalidRequest

    def page(**chosen: Any) -> None:
        from IPython.display import display

        try:
            figure = best_plan(**chosen)
        except InvalidRequest as error:
            print(error)
            return
        if figure is not None:
            display(figure)  # type: ignore[no-untyped-call]

    models = ["gpt-20b", *(name for name in SHAPES if name != "gpt-20b")]
    gpus = ["a100-80gb", *(name for name in GPUS if name != "a100-80gb")]
    interact(page, model=models, gpu=gpus, link=[OWN_LINK, *LINKS], precision=list(PRECISIONS), **MENUS)
