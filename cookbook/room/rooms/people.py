"""The three users of the demo, and their rooms."""

PEOPLE = {"ada": "Ada Okafor", "mio": "Mio Tanaka", "luis": "Luis Ferrer"}

# Each room has an owner, a name, a topic and messages: minutes ago, author, text.
ROOMS = [
    (
        "mio",
        "Field notes",
        "Small things worth writing down",
        [
            (190, "mio", "Heron on the weir again this morning. Same stone, same leg."),
            (186, "luis", "Third day in a row. It has a better routine than I do."),
            (
                52,
                "ada",
                "For the list:\n\n  heron: weir, 7:40\n  kestrel: above the car park\n  swifts: gone",
            ),
        ],
    ),
    (
        "ada",
        "Studio",
        "The poster for the autumn fair, and tea",
        [
            (47, "ada", "Morning! The printer needs the poster by Thursday noon."),
            (46, "ada", "I left both drafts on the big table."),
            (41, "mio", "Saw them. The second one breathes more. Can the date be bigger?"),
            (
                38,
                "luis",
                "Agree with Mio. And the pear in the corner is perfect, please nobody touch the pear.",
            ),
            (35, "ada", "The pear stays."),
            (12, "mio", "I can set the date tonight. Could you point at the line you meant?"),
        ],
    ),
]
