"""How many images it takes, told before anything is measured."""

from assay.gate.planning import plan, plan_text

from evidences import policy

ASKED = policy(floors={"accuracy": 0.95}, champion={"rule": "non_inferior", "margin": 0.01})


def test_the_number_that_is_enough_has_the_power_that_was_asked() -> None:
    needed = plan(ASKED, 500, 0.03)["images_needed"]
    enough, fewer = (plan(ASKED, images, 0.03)["sizes"][0]["power"] for images in (needed, int(0.9 * needed)))
    assert enough >= 0.79
    assert fewer < enough


def test_more_images_show_smaller_margins_and_later_looks_need_more() -> None:
    few, many, later = plan(ASKED, 500, 0.03), plan(ASKED, 2000, 0.03), plan(ASKED, 500, 0.03, look=5)
    assert few["sizes"][0]["smallest_margin"] > many["sizes"][0]["smallest_margin"]
    assert later["images_needed"] > few["images_needed"]


def test_a_person_reads_the_table() -> None:
    text = plan_text(plan(ASKED, 421, 0.03))
    assert "not worse by more than 1 point" in text
    assert "     421 " in text
    assert "no candidate can show it" in text


def test_a_better_candidate_for_a_rule_that_asks_for_one() -> None:
    planned = plan(policy(champion={"rule": "superior"}), 500, 0.03)
    assert planned["least_images"] is None
    assert planned["images_needed"] > 100
    assert "wins two of three" in plan_text(planned)
