"""``stopt verify``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stopt.cli import options
from stopt.cli.output import Output, table

if TYPE_CHECKING:
    from stopt.certificate import Verdict
    from stopt.convert.reproduce import Reproduction

__all__ = ["verify"]


@click.command()
@options.working_model
@click.option("--strict", is_flag=True, help="Refuse files that stopt.json does not name, too.")
@click.option(
    "--reproduce",
    "again",
    is_flag=True,
    help="Also make every file again from the recorded steps, in a folder that is gone afterwards, and compare. Needs "
    "the extra: pip install 'stopt[convert]'",
)
@click.option(
    "--texts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The calibration texts, where --reproduce needs your own; stopt.json has their hash, not the texts.",
)
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PEM",
    help="Also hold the folder against its signature (model.sig): the signer's public key.",
)
@click.option(
    "--certificate",
    "certificates",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PEM",
    multiple=True,
    help="The same with a certificate that the signer's own leads to; may be repeated.",
)
@options.trust_remote_code
@options.hub_options
@options.collect("signer", "key", "certificates")
@options.output_options
def verify(
    model: str,
    strict: bool,
    again: bool,
    texts: Path | None,
    signer: Mapping[str, Any],
    trust_remote_code: bool,
    revision: str | None,
    token: str | None,
    out: Output,
) -> None:
    """Hold MODEL's files against its stopt.json.

    Every file that went into a conversion or came out of it is hashed again; one that differs or is missing is named,
    and ends with exit code 4. Files that stopt.json does not name are listed.

    \b
    Example:
      stopt verify ./my-model
      stopt verify ./my-model --strict --reproduce
    """
    from stopt import hub
    from stopt.artifact import MANIFEST, Manifest
    from stopt.certificate import examine
    from stopt.errors import ArtifactError, CorruptModel
    from stopt.trust import trusted_code

    if signer["key"] and signer["certificates"]:
        raise click.UsageError("--key and --certificate are two ways to say who signed; give one of them")
    if trust_remote_code and not again:
        raise click.UsageError("--trust-remote-code goes with --reproduce: nothing else runs code")
    wanted = [*hub.WEIGHTS, "*.onnx*", "openvino/*", *(hub.CODE if trust_remote_code else ())]
    source = hub.fetch(model, wanted, revision=revision, token=token)
    manifest = Manifest.read(source.folder)
    if manifest is None:
        raise ArtifactError(
            f"{source.name} has no {MANIFEST} to be held against",
            f"files of stopt have one: stopt export {model}",
        )
    if signed := any(signer.values()):
        from stopt.signing import verify_signature

        verify_signature(source.folder, **signer)
    verdict = examine(source.folder, manifest)
    failure = verdict.failure(source.folder, strict=strict)
    made: list[Reproduction] = []
    if again and failure is None:
        from stopt.convert import require_convert

        require_convert()
        from stopt.convert.reproduce import Outcome, reproduce

        made = reproduce(
            source.folder, manifest, texts=texts, trust_remote_code=trust_remote_code, say=out.step
        )
        wrong = [each.file for each in made if each.outcome is Outcome.DIFFERENT]
        if wrong:
            failure = CorruptModel(
                f"{', '.join(wrong)} cannot be made again from what {MANIFEST} records",
                "install the recorded versions and try again, or convert the model again with `stopt export --force`",
            )
    data = {**asdict(verdict), "signed": signed, "reproduced": [asdict(each) for each in made]}
    if told := trusted_code(manifest):
        data["trusted_code"] = dict(manifest.code)
    out.result(_human(verdict, made, signed, told), data, "failed" if failure else "ok", failure)
    if verdict.unknown and not strict:
        out.warning(f"not in {MANIFEST}: {', '.join(verdict.unknown)}")
    if failure is not None:
        raise failure


def _human(verdict: Verdict, made: list[Reproduction], signed: bool, told: str) -> str:
    lines = ["the signature is good"] if signed else []
    lines.append(f"{len(verdict.verified)} files are as recorded")
    lines += [f"  {each}" for each in verdict.differences]
    lines += [told] if told else []
    if made:
        rows: list[Any] = [
            [
                each.file,
                each.outcome.value,
                each.reason or ", ".join(f"{name} {change}" for name, change in each.versions.items()),
            ]
            for each in made
        ]
        lines += ["", table(rows, ["file", "made again", ""])]
    return "\n".join(lines)
