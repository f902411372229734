"""The frames of an episode: an index that lags behind, and a view that never does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.store.database import index_frames, open_writer, rows

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 4)),
        st.tuples(st.just("drop"), st.integers(0, 30)),
        st.tuples(st.just("move"), st.integers(0, 30), st.integers(1, 4)),
        st.tuples(st.just("index")),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(steps=STEPS)
def test_the_view_has_exactly_the_frames_of_each_episode(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]]
) -> None:
    """Whatever was written, moved, removed and indexed in between, in any order."""
    connection = open_writer(tmp_path_factory.mktemp("store"))
    frames: dict[int, int] = {}
    number = 0
    for step in steps:
        match step:
            case ("put", int(episode)):
                number += 1
                frames[number] = episode
                insert = "INSERT INTO frames VALUES (?, ?, 0, x'00')"
                connection.execute(insert, (number, episode))
            case ("drop", int(frame)):
                frames.pop(frame, None)
                connection.execute("DELETE FROM frames WHERE id = ?", (frame,))
            case ("move", int(frame), int(episode)):
                if frame in frames:
                    frames[frame] = episode
                update = "UPDATE frames SET episode = ? WHERE id = ?"
                connection.execute(update, (episode, frame))
            case ("index",):
                index_frames(connection)
        for episode in range(1, 5):
            found = rows(
                connection,
                "SELECT id FROM episode_frames WHERE episode = ? ORDER BY id",
                (episode,),
            )
            expected = sorted(one for one, of in frames.items() if of == episode)
            assert [id_ for (id_,) in found] == expected
    connection.close()
