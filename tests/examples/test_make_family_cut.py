import pytest

from adversarial_mlm.data import load_corpus, read_cluster_table


@pytest.fixture
def cut(interpreter, repository, tmp_path):
    data = repository / "examples" / "data"

    def run(*options: str):
        sources = (data / "demo.fasta", data / "demo_clusters.tsv", tmp_path / "cut")
        return interpreter.run(repository / "examples" / "make_family_cut.py", *sources, *options)

    return run


def test_a_cut_holds_whole_families_of_the_size_asked_for(cut, tmp_path, repository):
    result = cut("--families", "5", "--min_members", "10", "--max_members", "20")
    assert result.returncode == 0, result.stderr
    proteins = load_corpus(str(tmp_path / "cut" / "proteins.fasta"), cache_dir=str(tmp_path / "cache")).dataset
    kept = read_cluster_table(tmp_path / "cut" / "clusters.tsv")
    everything = read_cluster_table(repository / "examples" / "data" / "demo_clusters.tsv")
    assert set(proteins["id"]) == set(kept) and len(set(kept.values())) == 5
    for family in set(kept.values()):
        members = {name for name, cluster in everything.items() if cluster == family}
        assert members == {name for name, cluster in kept.items() if cluster == family}
        assert 10 <= len(members) <= 20
    assert f"{len(kept)} proteins of 5 families" in result.stdout


def test_files_that_are_there_are_not_overwritten(cut, tmp_path):
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "proteins.fasta").write_text("mine")
    result = cut("--families", "5", "--min_members", "10", "--max_members", "20")
    assert result.returncode == 2
    assert f"output_dir {tmp_path / 'cut'} already contains proteins.fasta: choose another folder" in result.stderr
    assert (tmp_path / "cut" / "proteins.fasta").read_text() == "mine"


def test_what_cannot_be_cut_is_said_in_one_sentence(cut):
    result = cut("--families", "5", "--min_members", "1000", "--max_members", "2000")
    assert result.returncode == 2
    assert "has only 0 families of 1000 to 2000 members, but --families is 5" in result.stderr
    assert "Traceback" not in result.stderr
