from blockwise_lora.datasets.page import PageDataset


def test_a_page_comes_back_as_it_was(tmp_path):
    dataset = PageDataset(filepath=str(tmp_path / "deep" / "report.html"))
    assert not dataset.exists()
    dataset.save("<p>größer ≠ besser</p>\n")
    assert dataset.load() == "<p>größer ≠ besser</p>\n"
    assert (tmp_path / "deep" / "report.html").read_bytes().decode("utf-8").endswith("</p>\n")
