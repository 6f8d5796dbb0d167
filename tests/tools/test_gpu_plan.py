from scripts import ROOT, load_script

plan = load_script("tools/gpu_plan.py")


def test_the_models_are_shipped():
    for chosen in (plan.ON_A_GPU, plan.REHEARSAL):
        for name in (*chosen.models, chosen.camvid):
            assert (ROOT / "configs" / f"{name}.yaml").is_file(), name


def test_the_tests_of_the_rehearsal_are_there():
    assert all((ROOT / file).is_file() for file in plan.REHEARSAL.tests)
