from mta_clip.cli.console import write_error, write_result


def test_results_and_errors_go_apart(capsys):
    write_result("mIoU 48.38\nmodel.onnx")
    write_error("stopped by SIGINT")
    assert capsys.readouterr() == ("mIoU 48.38\nmodel.onnx\n", "stopped by SIGINT\n")
