"""Publishing a merged model on the Hugging Face hub, when it is asked for."""

from pathlib import Path

from deme_core.errors import InputError
from deme_core.naming import said


def check_hub(repository: str) -> None:
    """Refuse a name or a login that cannot work, before anything is merged."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"--push-to-hub {repository}: {said(error)}") from None
    try:
        HfApi().whoami()
    except Exception as error:  # no network, no token, a refused one: each of another class, from another library
        raise InputError(
            f"--push-to-hub {repository}: the hub does not know who you are ({said(error)}); merge without"
            " it, or connect and run `hf auth login`"
        ) from None


def push(folder: Path, repository: str) -> None:
    """Upload a merged model, saying what; the folder stays where it is."""
    from huggingface_hub import HfApi

    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    total = sum(file.stat().st_size for file in files)
    print(f"uploading {len(files)} files, {total} bytes, to https://huggingface.co/{repository}:")
    for file in files:
        print(f"  {file.relative_to(folder)}")
    try:
        HfApi().create_repo(repository, exist_ok=True)
        HfApi().upload_folder(repo_id=repository, folder_path=folder, commit_message="Merged with DeMe")
    except Exception as error:  # as above
        raise InputError(f"--push-to-hub {repository}: {said(error)}; the merged model is whole, in {folder}") from None
