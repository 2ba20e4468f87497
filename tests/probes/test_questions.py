"""Questions become numbers that do not depend on the order of the data, and what is no question is refused."""

import pytest
import torch

from vjepa_lab.batch import Question
from vjepa_lab.data.sources import _clevrer_questions
from vjepa_lab.probes._questions import ANSWERS, split_words, tabulate, texts_of, vocabulary

ONE = Question("descriptive", "How many cubes?", "2")
TWO = Question("predictive", "What is next?", choices=("a cube", "no cube", "rain"), correct=(True, False, False))
THREE = Question("explanatory", "Why?", choices=("rain",), correct=(True,))


def test_the_answers_are_those_of_the_toy_world():
    assert set(ANSWERS) == set(_clevrer_questions.ANSWERS)
    assert len(ANSWERS) == len(set(ANSWERS)) == 26


def test_words_are_split_at_blanks_and_signs():
    assert split_words("Without the Red cube, what's next?") == [
        "without",
        "the",
        "red",
        "cube",
        ",",
        "what",
        "'",
        "s",
        "next",
        "?",
    ]


def test_the_vocabulary_does_not_depend_on_the_order_of_the_data():
    texts = ["b a", "a c", "d"]
    assert vocabulary(texts) == vocabulary(texts[::-1]) == {"a": 2, "b": 3, "c": 4, "d": 5}


def test_the_commonest_words_are_kept():
    known = vocabulary([*(f"w{i}" for i in range(3000)), "common common"])
    assert len(known) == 1998
    assert known["common"] == 2


def test_tables_say_what_was_asked():
    asked = [[ONE, TWO], [], [THREE, ONE]]
    known = vocabulary(texts_of(asked[:1]))
    table = tabulate(asked, known, "toy")
    assert table.video.tolist() == [0, 2]
    assert [ANSWERS[i] for i in table.answer] == ["2", "2"]
    assert table.text[0] == table.text[1], "one text, read once"
    assert table.about.tolist() == [0, 2]
    assert table.kind.tolist() == [1, 0]
    assert (table.options >= 0).tolist() == [[True, True, True], [True, False, False]]
    assert table.correct.tolist() == [[True, False, False], [True, False, False]]
    assert table.options[0, 2] == table.options[1, 0], "rain"
    words = table.words[table.question[0]][: table.length[table.question[0]]]
    assert words.tolist() == [known[w] for w in ("what", "is", "next", "?")]
    why = table.words[table.question[1]][: table.length[table.question[1]]]
    assert why.tolist() == [1, known["?"]], "a word that was not fitted is unknown"
    assert torch.equal(table.words == 0, torch.arange(table.words.shape[1]) >= table.length[:, None])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([ONE._replace(answer=""), TWO], "answer: got '', expected one of"),
        ([ONE._replace(answer="two"), TWO], "answer: got 'two', expected one of"),
        ([ONE, TWO._replace(correct=())], "got 3 options and 0 answers.*of the test split the answers are withheld"),
        ([ONE], "got 1 descriptive questions and 0 with options, expected some of both"),
    ],
)
def test_questions_without_answers_are_refused(asked, message):
    with pytest.raises(ValueError, match=f"source toy: .*{message}"):
        tabulate([asked], {}, "toy")
