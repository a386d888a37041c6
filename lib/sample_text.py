"""The words of the generated reviews: fictional titles that tell their genre, headlines and bodies.

Everything here is plain data plus the few lines that put it together.  What is chosen is decided by whole
numbers handed in by `lib.samples`, so that the same numbers always give the same text.  No word list may
hold a tab or a line break: the reviews are one line each.
"""

from __future__ import annotations

import numpy as np


def words(text: str) -> list[str]:
    """Split a list of words that is written as one text, separated by ``|``."""
    return text.split("|")


GENRES = {
    "comedy": (
        words(
            "Awkward|Accidental|Lucky|Clueless|Borrowed|Hungry|Runaway|Overdue|Half-Baked|Unlikely|Backyard|Double"
        ),
        words(
            "Wedding|Roommates|Birthday|Neighbors|Vacation|Office Party|Bridesmaids|In-Laws|Road Trip|Dog Sitter"
            "|Talent Show|Blind Date|Prank|Holiday"
        ),
    ),
    "crime": (
        words("Crooked|Silent|Cold|Missing|Guilty|Final|Broken|Hidden|Stolen|Unmarked|Second|Dead-End"),
        words(
            "Witness|Verdict|Detective|Alibi|Evidence|Heist|Precinct|Informant|Case|Confession|Getaway|Inspector"
            "|Ransom|Harbor Patrol"
        ),
    ),
    "documentary": (
        words("Vanishing|Living|Untold|Wild|Ancient|Frozen|Inner|Deep|Great|Lost|Modern|Secret"),
        words(
            "Oceans|Planet|Rivers|Empires of Ice|Migration|Volcanoes|Architects|Machines|Forests|Deserts|Insects"
            "|Railways|Cathedrals|Reefs"
        ),
    ),
    "drama": (
        words("Quiet|Distant|Fragile|Empty|Long|Broken|Bitter|Northern|Ordinary|Unspoken|Fading|Paper"),
        words(
            "Harbor|Daughters|Letters|Winter|Promises|House|Brothers|Rooms|Orchard|Goodbyes|Shoreline|Inheritance"
            "|Mothers|Silence"
        ),
    ),
    "fantasy": (
        words(
            "Enchanted|Shattered|Last|Forgotten|Crimson|Silver|Wandering|Thorned|Eternal|Starlit|Iron|Hollow"
        ),
        words(
            "Kingdom|Dragon|Crown|Sorceress|Throne|Prophecy|Sword|Griffin|Realm|Spellbook|Oracle|Knight|Citadel"
            "|Unicorn"
        ),
    ),
    "food": (
        words("Midnight|Rustic|Sunday|Smoky|Old-Time|Roadside|Secret|Seaside|Sweet|Spicy|Wooden|Copper"),
        words(
            "Kitchen|Bakery|Supper Club|Table|Café|Harvest|Diner|Chef|Noodles|Barbecue|Market|Pantry|Vineyard"
            "|Bake-Off"
        ),
    ),
    "history": (
        words("Royal|Forgotten|Bloody|Burning|Imperial|Fallen|Stubborn|Hungry|Golden|Sunken|Northern|Last"),
        words(
            "Regiment|Dynasty|Siege|Crusade|Revolution|Emperor|Trenches|Queen|Armada|Legion|Treaty|Pharaoh"
            "|Battalion|Frontier"
        ),
    ),
    "horror": (
        words(
            "Hollow|Whispering|Rotting|Cursed|Screaming|Buried|Black|Bleeding|Haunted|Sleepless|Nameless|Crawling"
        ),
        words(
            "Crypt|Asylum|Cellar|Scarecrow|Séance|Graveyard|Possession|Orphanage|Doll|Ritual|Coven|Morgue|Exorcist"
            "|Nightmare"
        ),
    ),
    "kids": (
        words("Little|Bouncy|Magic|Sleepy|Giggly|Happy|Tiny|Rainbow|Busy|Fuzzy|Super|Jolly"),
        words(
            "Puppies|Tractor Friends|Bunny Patrol|Dinosaur School|Playhouse|Tugboat|Alphabet Zoo|Bears|Treehouse"
            "|Penguin Pals|Fire Trucks|Pirates|Ponies|Sing-Along"
        ),
    ),
    "romance": (
        words("Sweet|Hopeless|Summer|Secret|Second|Moonlit|Almost|Forever|Tender|Stolen|Winter|Southern"),
        words(
            "Kiss|Hearts|Valentine|Honeymoon|Love Letter|Proposal|Fiancé|Affair|Sweethearts|Promise|Waltz|Wish"
            "|Embrace|Bouquet"
        ),
    ),
    "science fiction": (
        words(
            "Orbital|Quantum|Stellar|Rogue|Synthetic|Parallel|Martian|Infinite|Dark|Chrome|Binary|Terminal"
        ),
        words(
            "Station|Android|Colony|Horizon|Starship|Protocol|Outpost|Paradox|Nebula|Clone|Singularity|Drift"
            "|Signal|Wormhole"
        ),
    ),
    "thriller": (
        words("Lethal|Blind|Double|Hostile|Deadly|Ruthless|Zero|Burning|Silent|Fatal|Undercover|Sudden"),
        words(
            "Pursuit|Agenda|Hostage|Deception|Countdown|Conspiracy|Target|Exposure|Extraction|Sniper|Betrayal"
            "|Threat|Manhunt|Impulse"
        ),
    ),
}
"""Genre name → adjectives, nouns; in the order of the genre's number."""

GENRE_NAMES = tuple(GENRES)

PLACES = words(
    "Marlow Bay|Cedar Falls Road|Port Ellery|Ashgrove|Saint Briac|Willow County|Kestrel Hill|Old Harrow|Dunmere"
    "|Lake Orrin|Bramble Street|Fort Calder|Tamsin Creek|Eastwick Row|Pine Hollow|Vellamo|Larkspur Lane|Rook Island"
    "|Grey Point|Santa Alba"
)

PATTERNS = (
    "The {adjective} {noun}",
    "{adjective} {noun}",
    "The {noun} of {place}",
    "{adjective} {noun}: {place}",
    "{place}: The {noun}",
    "{noun} at {place}",
    "The {adjective} {noun} of {place}",
)

EDITIONS = ("", "", "", "", "", "", " [HD]", " (Extended Cut)", " (Subtitled)")

HEADLINES = (
    words(
        "Waste of money|Could not finish it|Terrible|Do not bother|One star is generous|Would not play"
        '|"Masterpiece"? Really?|Awful|So disappointed|Turned it off'
    ),
    words(
        "Disappointing|Not for me|Expected more|Pretty weak|Slow and dull|Two stars for the scenery|Meh"
        "|Had potential|Not what I hoped|Skip it"
    ),
    words(
        "It was okay|Average|Good but not great|Decent enough|Watchable|Three stars|So-so|Mixed feelings"
        '|Passes the time|"Fine" is the word'
    ),
    words(
        "Good show|Really enjoyed it|Worth watching|Solid|Nice surprise|Four stars|Better than expected"
        '|Well done|Almost perfect|"Just one more episode'
    ),
    words(
        "Loved it!|Excellent|Five stars|A must see|Best thing on right now|Can't stop watching|Brilliant|Perfect"
        '|"Unforgettable"|Wow!'
    ),
)
"""Ten headlines for each number of stars, 1 to 5."""

OPENINGS = (
    words(
        "I wanted to like this and could not.|What a waste of an evening.|We gave up after twenty minutes."
        "|Nothing about this works.|I would like my money back.|Who approved this script?"
        '|My husband called it "unwatchable" and he likes everything.|Bad picture, bad sound, worse acting.'
    ),
    words(
        "Not terrible, but I would not watch it again.|It never really gets going.|The trailer promised more."
        "|A weak effort from people who can do better.|I kept looking at the clock.|Only the first part is any good."
        '|They call this a "special"?|The idea is fine, the rest is not.'
    ),
    words(
        "It is fine for a rainy afternoon.|Some parts are good, others drag.|Nothing new, nothing awful."
        "|Okay if you have already seen everything else.|I liked it more than my wife did.|It has its moments."
        '|On a 60" screen it looks nice enough.|Neither here nor there.'
    ),
    words(
        "We enjoyed this a lot.|A pleasant surprise.|Well acted and nicely paced.|I would watch another season."
        "|Very good, with a slow start.|Streamed without a hitch and kept us interested."
        '|As a friend put it, "give it two episodes".|Good fun from start to finish.'
    ),
    words(
        "I loved every minute of it.|This is what television should be.|Fantastic from beginning to end."
        "|We watched it twice in one weekend.|Simply wonderful.|One of the best I have seen in years."
        '|My kids call it "the good one" and ask for it daily.|Cannot recommend it enough.'
    ),
)
"""Eight first sentences for each number of stars, 1 to 5."""

ABOUT = {
    "comedy": words(
        "The jokes come fast.|We laughed out loud twice.|The humor is broad.|The cast has comic timing."
    ),
    "crime": words(
        "The detective is the heart of it.|I guessed the culprit late.|The case is well built.|Gritty police work."
    ),
    "documentary": words(
        "The photography is the point.|The narrator knows the subject.|I learned something.|Facts first."
    ),
    "drama": words(
        "The family scenes carry it.|The acting is restrained.|It takes its time with people.|Bring tissues."
    ),
    "fantasy": words(
        "The dragons look real.|The world is carefully made.|Swords, spells and a map.|The quest is an old one."
    ),
    "food": words(
        "The recipes are the stars.|Do not watch it hungry.|The chef explains every step.|Cooking without shouting."
    ),
    "history": words(
        "The costumes are right.|The battle scenes are long.|The period is well researched.|Kings and mud."
    ),
    "horror": words(
        "There is a lot of blood.|The scares are cheap.|I slept with the light on.|The cellar scene!"
    ),
    "kids": words(
        "Our four-year-old watched it.|The songs stay in your head.|Bright colors and kind words.|Good for toddlers."
    ),
    "romance": words(
        "The couple has chemistry.|You know how it ends.|It is a love story and no more.|Sweet and slow."
    ),
    "science fiction": words(
        "The effects are good.|The science is nonsense.|The ship is beautiful.|Ideas more than action."
    ),
    "thriller": words(
        "The tension builds.|There is a twist.|The chase through the city is long.|I did not trust anyone."
    ),
}
"""Four second sentences for each genre."""

CLOSINGS = (
    "",
    "",
    "",
    " Bought it to watch on my tablet.",
    " The picture quality was good.<br /><br />No problems with the download.",
    " I watched it on a flight.",
    " Others may see it differently.",
    ' Read the other reviews: "to each his own".',
    " I rented it for two days.",
    ' There was one stray " in the subtitles.',
    " The second half is different from the first, and so is the ending, so give it the whole two hours.",
    " Shared it with the whole family.",
)


def titles(genre: np.ndarray, draw: np.ndarray) -> list[str]:
    """Make one title for each video.

    Parameters
    ----------
    genre : int array, shape (n,)
        Genre numbers, indices into `GENRE_NAMES`.
    draw : uint64 array, shape (n,)
        One random number for each video, from which every choice is taken.

    Returns
    -------
    list of str
        Such as ``The Silent Witness (Season 2)``.  Titles of different videos may be equal.
    """
    vocabulary = list(GENRES.values())
    made = []
    for number, choice in zip(genre.tolist(), draw.tolist(), strict=True):
        adjectives, nouns = vocabulary[number]
        choice, adjective = divmod(choice, len(adjectives))
        choice, noun = divmod(choice, len(nouns))
        choice, place = divmod(choice, len(PLACES))
        choice, pattern = divmod(choice, len(PATTERNS))
        choice, is_series = divmod(choice, 5)
        title = PATTERNS[pattern].format(
            adjective=adjectives[adjective], noun=nouns[noun], place=PLACES[place]
        )
        if is_series < 2:
            made.append(f"{title} (Season {choice % 7 + 1})")
        else:
            made.append(title + EDITIONS[choice % len(EDITIONS)])
    return made


def headlines(stars: np.ndarray, draw: np.ndarray) -> list[str]:
    """Choose a headline for each review; ``stars`` (1 to 5) and ``draw`` (uint64) have shape (n,)."""
    flat = np.array([headline for group in HEADLINES for headline in group], dtype=object)
    return flat[(stars - 1) * 10 + (draw % np.uint64(10)).astype(np.int64)].tolist()


def bodies(stars: np.ndarray, genre: np.ndarray, draw: np.ndarray) -> list[str]:
    """Write a body of two or three sentences for each review; all arguments have shape (n,).

    Parameters
    ----------
    stars : int array
        1 to 5, for the first sentence.
    genre : int array
        Genre numbers, for the second sentence.
    draw : uint64 array
        One random number for each review.
    """
    firsts = np.array([sentence for group in OPENINGS for sentence in group], dtype=object)
    seconds = np.array([sentence for group in ABOUT.values() for sentence in group], dtype=object)
    lasts = np.array(CLOSINGS, dtype=object)
    first = firsts[(stars - 1) * 8 + (draw % np.uint64(8)).astype(np.int64)]
    second = seconds[genre * 4 + (draw // np.uint64(8) % np.uint64(4)).astype(np.int64)]
    last = lasts[(draw // np.uint64(32) % np.uint64(len(CLOSINGS))).astype(np.int64)]
    return [f"{a} {b}{c}" for a, b, c in zip(first.tolist(), second.tolist(), last.tolist(), strict=True)]
