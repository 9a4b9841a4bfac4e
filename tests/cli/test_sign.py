"""``stopt sign``, and ``stopt verify`` with a key or a certificate; all without a network."""

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stopt.cli.main import cli


@pytest.fixture
def folder(exported: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("bert"), tmp_path / "model"))


def private(path: Path, key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> Path:
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    return path


def public(path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return path


def certificate(
    path: Path,
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
) -> Path:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    made = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    if not ca:
        made = made.add_extension(
            x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CODE_SIGNING]), critical=False
        )
    path.write_bytes(made.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


def stopt(*command: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, command)])


def test_a_signature_is_verified_and_a_change_after_it_is_told(folder, tmp_path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    signed = stopt("sign", folder, "--key", private(tmp_path / "key.pem", key))
    assert signed.exit_code == 0, signed.output
    assert (folder / "model.sig").is_file()
    mine = public(tmp_path / "public.pem", key)
    done = stopt("verify", folder, "--strict", "--key", mine)
    assert done.exit_code == 0, done.output
    assert "the signature is good" in done.stdout
    other = public(tmp_path / "other.pem", ec.generate_private_key(ec.SECP256R1()))
    done = stopt("verify", folder, "--key", other)
    assert done.exit_code == 4
    assert "not by the holder of this key" in done.stderr
    (folder / "added.json").write_text("{}", encoding="utf-8")  # which stopt.json alone only warns of
    done = stopt("verify", folder, "--key", mine)
    assert done.exit_code == 4
    assert "added.json" in done.stderr
    assert "Hint: fetch the model again" in done.stderr


def test_a_signature_with_a_certificate_is_verified_with_that_of_its_issuer(folder, tmp_path) -> None:
    root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = certificate(tmp_path / "root.pem", "root", root, "root", root, ca=True)
    own = certificate(tmp_path / "own.pem", "signer", key, "root", root, ca=False)
    command = ["sign", folder, "--key", private(tmp_path / "key.pem", key)]
    done = stopt(*command, "--certificate", own, "--chain", issuer)
    assert done.exit_code == 0, done.output
    done = stopt("verify", folder, "--certificate", issuer)
    assert done.exit_code == 0, done.output
    stranger = ec.generate_private_key(ec.SECP256R1())
    wrong = certificate(tmp_path / "wrong.pem", "root", stranger, "root", stranger, ca=True)
    assert stopt("verify", folder, "--certificate", wrong).exit_code == 4


def test_a_keys_password_comes_from_the_environment(folder, tmp_path, monkeypatch) -> None:
    key = private(tmp_path / "key.pem", ec.generate_private_key(ec.SECP256R1()), b"secret word")
    done = stopt("sign", folder, "--key", key)
    assert done.exit_code == 1
    assert "cannot sign" in done.stderr
    assert "Hint: a private key of an elliptic curve" in done.stderr
    assert not (folder / "model.sig").exists()
    monkeypatch.setenv("STOPT_KEY_PASSWORD", "secret word")
    done = stopt("sign", folder, "--key", key)
    assert done.exit_code == 0, done.output
    assert "secret word" not in done.output


def test_what_differs_from_stopt_json_is_not_signed(folder, tmp_path) -> None:
    (folder / "config.json").unlink()
    done = stopt(
        "sign", folder, "--key", private(tmp_path / "k.pem", ec.generate_private_key(ec.SECP256R1()))
    )
    assert done.exit_code == 4
    assert not (folder / "model.sig").exists()


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["verify", "{}", "--key", "nowhere.pem"], 1, "has no signature (model.sig)"),
        (["sign", "{}", "--key", "nowhere.pem"], 1, "nowhere.pem is no file"),
        (["sign", "nowhere", "--key", "nowhere.pem"], 1, "nowhere is no folder"),
        (["verify", "{}", "--key", "a", "--certificate", "b"], 2, "give one of them"),
    ],
)
def test_what_is_missing_is_told(folder, command, code, message) -> None:
    done = stopt(*(part.format(folder) for part in command))
    assert done.exit_code == code
    assert message in done.stderr


def test_without_the_package_the_extra_is_named(folder, tmp_path, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "model_signing.signing", None)
    done = stopt(
        "sign", folder, "--key", private(tmp_path / "k.pem", ec.generate_private_key(ec.SECP256R1()))
    )
    assert done.exit_code == 1
    assert "pip install 'stopt[sign]'" in done.stderr
