#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the texts of the "stories" example: tales, letters, ledgers, ship's logs and recipes of an invented coast.

Only the standard library is needed. The same seed gives the same text everywhere.

A text is made by a small simulation, not by picking sentences alone: people have invented names that come back, own
things, have money that is spent and added up; weather and wind change slowly; a recipe uses what it lists. Besides
there is a coast that is always the same: towns and people whose facts (who founded which town when, who lives where
with which animal) are in the texts again and again. So a language model has something to gain from looking back, much
to learn by heart, and much that nobody can foresee, which keeps its perplexity well above 1.

  write.py FILE --seed 7 --count 1000     writes 1000 texts, separated by lines of <|endoftext|>
"""
import argparse
import pathlib
import random

SEPARATOR = "\n<|endoftext|>\n"
WORLD_SEED, TOWNS, FOLK = 0, 120, 160  # the coast that is always the same

# ------------------------------------------------------------------------------------------------------------ words

_ONSETS = "b br d dr f g gr h j k kl l m n p pr r s sk st t th tr v w z".split()
_VOWELS = "a e i o u a e o ai ei ou".split()
_MIDDLES = "l r n m s d v k ll rr nd rd st lm".split()
_PERSON_ENDINGS = "a o en is ka ra in el an us ina ett".split()
_PLACE_ENDINGS = "dun ford mouth wick holm stead by haven ness moor".split()

TRADES = ("weaver smith baker fisher potter miller shepherd carpenter beekeeper ferryman sailor tanner glazier cooper "
          "herbalist lamplighter mason clockmaker ropemaker bookbinder gardener innkeeper").split()
MOODS = "patient proud careful cheerful stubborn quiet curious clever nervous generous forgetful honest lazy brave".split()
GOODS = {  # what it is made of or looks like; price range in pence
    "lantern": ("brass tin copper", 12, 40), "rope": ("hemp long tarred", 4, 20), "blanket": ("woollen grey striped", 10, 30),
    "kettle": ("iron copper dented", 14, 45), "basket": ("willow round deep", 3, 12), "knife": ("sharp small bone-handled", 6, 25),
    "map": ("old torn painted", 8, 60), "clock": ("silver wooden slow", 40, 95), "cheese": ("hard white smoked", 3, 14),
    "barrel": ("oak heavy leaking", 9, 26), "mirror": ("oval cracked bright", 15, 55), "fiddle": ("red three-stringed fine", 30, 90),
    "coat": ("green heavy patched", 18, 60), "hat": ("straw black wide", 4, 18), "candle": ("yellow tall scented", 1, 6),
    "bell": ("little bronze loud", 10, 38), "book": ("thick blue unfinished", 12, 48), "key": ("rusty golden strange", 2, 20),
    "saddle": ("leather worn embroidered", 35, 88), "goose": ("fat white noisy", 8, 22), "goat": ("brown young bad-tempered", 20, 50),
    "oar": ("ash short broken", 5, 16), "net": ("fine mended wet", 7, 28), "jar": ("clay blue empty", 2, 10),
}
BULK = ("barley wheat rye salt wool flax honey tallow iron timber herring cod wax pitch hops peas apples onions "
        "charcoal slate linen leather").split()
MEASURES = "sacks barrels crates bales casks tubs".split()
PLACES = ("market harbour mill bridge inn chapel lighthouse well orchard smithy quay ford tower bakery square "
          "boathouse").split()
LANDS = "forest marsh hills moor valley dunes cliffs meadows river shore".split()
SEASONS = "spring summer autumn winter".split()
MONTHS = "January February March April May June July August September October November December".split()
WEATHERS = ["clear", "hazy", "cloudy", "drizzling", "raining hard", "stormy"]
WINDS = ["north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west"]
SHIPS = ("Grey Heron|Patient Anna|Seven Sisters|Copper Moon|Old Promise|Wild Thistle|Morning Tide|Black Kettle|"
         "Salt Rose|Lucky Widow").split("|")
ANIMALS = "fox crow hare otter badger owl wolf heron seal stag".split()
SPICES = "thyme sage mint pepper ginger fennel dill garlic mustard nutmeg".split()
BASES = "barley beans lentils cod mutton eels turnips leeks mushrooms chicken cabbage eggs".split()
LIQUIDS = "water|milk|cider|broth|ale|cream".split("|")
POTS = "a deep pot|an iron pan|a clay dish|a copper kettle|a wide bowl".split("|")

NUMBERS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
           "seventeen eighteen nineteen twenty").split()


def number(n):
    return NUMBERS[n] if n <= 20 else str(n)


def article(phrase):
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def capital(text):
    return text[0].upper() + text[1:]


def pence(n):
    """Twelve pence to the shilling."""
    shillings, rest = divmod(n, 12)
    parts = []
    if shillings:
        parts.append(f"{number(shillings)} shilling{'s' if shillings > 1 else ''}")
    if rest or not shillings:
        parts.append("one penny" if rest == 1 else f"{number(rest)} pence")
    return " and ".join(parts)


class Writer:
    """One text. Every choice goes through random(), whose sequence Python keeps from version to version."""

    def __init__(self, rng, coast):
        self.rng = rng
        self.used = set(coast["names"]) if coast else set()
        self.coast = coast
        self.met = set()

    def pick(self, options):
        return options[int(self.rng.random() * len(options))]

    def chance(self, p):
        return self.rng.random() < p

    def between(self, low, high):
        return low + int(self.rng.random() * (high - low + 1))

    def some(self, options, count):
        """`count` different ones, in random order."""
        left = list(options)
        return [left.pop(int(self.rng.random() * len(left))) for _ in range(count)]

    def name(self, endings):
        while True:
            word = self.pick(_ONSETS) + self.pick(_VOWELS)
            for _ in range(1 if self.chance(0.75) else 2):
                word += self.pick(_MIDDLES)
                if not self.chance(0.8):
                    word += self.pick(_VOWELS) + self.pick(_MIDDLES[:8])
            word = capital(word + self.pick(endings))
            if len(word) <= 11 and word not in self.used:
                self.used.add(word)
                return word

    def person(self):
        """Someone of the coast, not there yet, or someone new."""
        if self.coast and self.chance(0.4):
            known = self.pick(self.coast["folk"])
            if known["name"] not in self.met:
                self.met.add(known["name"])
                return dict(known, money=self.between(20, 110))
        return self.new_person()

    def new_person(self):
        she = self.chance(0.5)
        return {"name": self.name(_PERSON_ENDINGS), "he": "she" if she else "he", "him": "her" if she else "him",
                "his": "her" if she else "his", "trade": self.pick(TRADES), "mood": self.pick(MOODS),
                "money": self.between(20, 110)}

    def place(self):
        if self.coast and self.chance(0.5):
            return self.pick(self.coast["towns"])["name"]
        return self.name(_PLACE_ENDINGS)

    def thing(self):
        noun = self.pick(sorted(GOODS))
        looks, low, high = GOODS[noun]
        return {"noun": noun, "full": f"{self.pick(looks.split())} {noun}", "price": self.between(low, high)}

    # ------------------------------------------------------------------------------------------------------- tales

    def tale(self):
        who, other, home, away = self.person(), self.person(), self.place(), self.place()
        wanted = own = self.thing()
        while own["noun"] == wanted["noun"]:
            own = self.thing()
        name, season = who["name"], self.pick(SEASONS)
        lines = [self.pick([
            f"There was once a {who['mood']} {who['trade']} called {name}, who lived near the {self.pick(PLACES)} of {home}.",
            f"{name} was {article(who['trade'])} in {home}, {who['mood']} and rather poor.",
            f"In the {season} of that year {name}, the {who['trade']} of {home}, woke before dawn.",
            f"Nobody in {home} was as {who['mood']} as {name} the {who['trade']}.",
        ])]
        lines.append(self.pick([
            f"{capital(who['he'])} owned {article(own['full'])} and {pence(who['money'])}, and wanted {article(wanted['full'])} more than anything.",
            f"All {who['he']} needed was {article(wanted['full'])}, but in {home} there was none to be had for {pence(who['money'])}.",
            f"One {season} morning {who['his']} {wanted['noun']} was gone, and {who['he']} had only {article(own['full'])} and {pence(who['money'])} left.",
        ]))
        lines.append(self.pick([
            f"So {name} took the road through the {self.pick(LANDS)} to {away}.",
            f"\"They sell such things in {away},\" said {who['his']} {self.pick(['mother', 'brother', 'aunt', 'neighbour'])}, and {name} set out over the {self.pick(LANDS)}.",
            f"{name} packed some bread and walked {self.pick(['two', 'three', 'four', 'five'])} days to {away}.",
        ]))
        if self.chance(0.55):
            animal = self.pick(ANIMALS)
            lines.append(self.pick([
                f"On the way {article(animal)} crossed the path and looked at {who['him']} for a long time.",
                f"By the {self.pick(LANDS)} {who['he']} met {article(animal)} with a thorn in its foot. {name} pulled it out, and the {animal} ran off without a word.",
                f"At night {article(animal)} stole {who['his']} bread, so {name} arrived hungry.",
            ]))
        lines.append(self.pick([
            f"At the {self.pick(PLACES)} of {away} sat {article(other['mood'])} {other['trade']} named {other['name']}.",
            f"In {away} {who['he']} asked at the {self.pick(PLACES)}, and they sent {who['him']} to {other['name']}, {article(other['trade'])}.",
        ]))
        lines.append(self.pick([
            f"\"I have {article(wanted['full'])},\" said {other['name']}. \"It costs {pence(wanted['price'])}.\"",
            f"{other['name']} showed {who['him']} {article(wanted['full'])} and asked {pence(wanted['price'])} for it.",
        ]))
        lines.append(self.deal(who, other, wanted, own))
        lines.append(self.pick([
            f"When {name} came home to {home}, it was {self.pick(SEASONS)}.",
            f"Then {who['he']} went back to {home} and told the story at the {self.pick(PLACES)}.",
            f"From that day on {name} and {other['name']} were {self.pick(['friends', 'partners', 'rivals'])}.",
            f"And the {wanted['noun']} hangs in the {self.pick(PLACES)} of {home} to this day.",
            f"\"{capital(away)} is far,\" {name} said later, \"but {other['name']} is {other['mood']}.\"",
        ]))
        return self.paragraphs(lines)

    def deal(self, who, other, wanted, own):
        name, seller, price, money = who["name"], other["name"], wanted["price"], who["money"]
        if price <= money:
            left = money - price
            rest = f"{pence(left)} left" if left else "not a penny left"
            return self.pick([
                f"{name} paid the {pence(price)} and had {rest}.",
                f"That was fair. {name} counted {pence(price)} into the hand of {seller}, took the {wanted['noun']}, and had {rest}.",
            ])
        short = price - money
        return self.pick([
            f"{name} had only {pence(money)}, which was {pence(short)} short, so {who['he']} gave {who['his']} {own['noun']} as well, and {seller} was content.",
            f"But {name} was {pence(short)} short. \"Then work for me,\" said {seller}, and for {number(max(2, short // 3))} days {name} helped the {other['trade']} and got the {wanted['noun']}.",
            f"\"I have {pence(money)} and {article(own['full'])},\" said {name}. {seller} thought about it, looked at the {own['noun']}, and shook {who['his']} hand.",
            f"It was {pence(short)} too much. {name} turned away {self.pick(['sadly', 'slowly', 'without a word'])}, and {seller} kept the {wanted['noun']}.",
        ])

    # ----------------------------------------------------------------------------------------------------- letters

    def letter(self):
        who, to, third = self.person(), self.person(), self.person()
        home, thing, other = self.place(), self.thing(), self.thing()
        body = [f"Dear {to['name']},"]
        body.append(self.pick([
            f"I hope this finds you well. In {home} it has been {self.pick(WEATHERS)} since {self.pick(MONTHS)}.",
            f"Your letter of {self.pick(MONTHS)} {self.between(1, 28)} reached me in {home} only yesterday.",
            f"Forgive my long silence. The {self.pick(PLACES)} of {home} burned down, and I have been busy.",
        ]))
        talk = [
            f"{third['name']} the {third['trade']} asks after you. {capital(third['he'])} is as {third['mood']} as ever and still has your {other['noun']}.",
            f"Please send me {article(thing['full'])} with the next ship. I will pay {pence(thing['price'])}, but no more.",
            f"You owe me {pence(thing['price'])} for the {thing['noun']}. I have not forgotten it, and neither has {third['name']}.",
            f"Do not trust {third['name']}. {capital(third['he'])} sold me {article(other['full'])} for {pence(other['price'])}, and it broke within {number(self.between(2, 9))} days.",
            f"The {self.pick(ANIMALS)} has come back to the {self.pick(LANDS)}, and the children of {home} leave it {self.pick(BULK)}.",
            f"My {self.pick(['sister', 'uncle', 'daughter', 'cousin'])} has married {third['name']}, {article(third['trade'])} from {self.place()}. They have {number(self.between(2, 12))} {self.pick(['goats', 'geese', 'sheep', 'hives'])}.",
            f"I have bought {number(self.between(2, 20))} {self.pick(MEASURES)} of {self.pick(BULK)} and hope to sell them before {self.pick(SEASONS)}.",
        ]
        body += self.some(talk, self.between(2, 3))
        body.append(self.pick([
            f"Come and see us in {self.pick(SEASONS)}, {to['name']}.", f"Write soon, and greet {third['name']} from me.",
            f"Keep the {thing['noun']} dry.", f"I remain in {home} until {self.pick(MONTHS)}."]))
        body.append(f"Your {self.pick(['old friend', 'cousin', 'faithful servant', 'loving aunt', 'partner'])}, {who['name']}")
        return "\n".join([body[0], " ".join(body[1:-1]), body[-1]])

    # ----------------------------------------------------------------------------------------------------- ledgers

    def ledger(self):
        keeper, town, money = self.person(), self.place(), self.between(60, 200)
        people = [self.person()["name"] for _ in range(self.between(2, 3))]
        lines = [f"Accounts of {keeper['name']}, {keeper['trade']} in {town}, {self.pick(MONTHS)}.", f"In the chest: {money} pence."]
        for _ in range(self.between(4, 7)):
            goods, amount, each = self.pick(BULK), self.between(2, 9), self.between(2, 12)
            measure, person = self.pick(MEASURES), self.pick(people)
            total = amount * each
            if self.chance(0.5) and total <= money:
                money -= total
                lines.append(f"Bought {amount} {measure} of {goods} from {person} at {each}: paid {total}, left {money}.")
            else:
                money += total
                lines.append(f"Sold {amount} {measure} of {goods} to {person} at {each}: got {total}, now {money}.")
            if self.chance(0.2):
                loss = self.between(1, min(9, money))
                money -= loss
                reason = self.pick(["a broken wheel", "candles", "the toll", "bread and ale", "a lost bet", "the roof"])
                lines.append(f"Spent {loss} on {reason}, left {money}.")
        lines.append(f"Total in the chest: {money} pence.")
        return "\n".join(lines)

    # ------------------------------------------------------------------------------------------------- ship's logs

    def log(self):
        captain, mate = self.person(), self.person()
        ship, start, goal = self.pick(SHIPS), self.place(), self.place()
        month, day = self.between(0, 11), self.between(1, 18)
        weather, wind, speed = self.between(0, 3), self.between(0, 7), self.between(3, 8)
        cargo, amount = self.pick(BULK), self.between(10, 90)
        lines = [f"Log of the {ship}, Captain {captain['name']}, from {start} to {goal} with {amount} {self.pick(MEASURES)} of {cargo}."]
        miles = 0
        for _ in range(self.between(3, 5)):
            weather = min(5, max(0, weather + self.between(-1, 1)))
            wind = (wind + self.between(-1, 1)) % 8
            speed = min(9, max(1, speed + self.between(-2, 2)))
            miles += speed * 12
            entry = f"{MONTHS[month]} {day}: {WEATHERS[weather]}, wind {WINDS[wind]}, {speed} knots, {miles} miles made."
            if weather >= 4 and self.chance(0.6):
                lost = self.between(1, 6)
                amount = max(1, amount - lost)
                entry += self.pick([f" Lost {number(lost)} of the {cargo}; {amount} left.", f" {mate['name']} tied down the {cargo}.",
                                    " The sail tore.", f" {captain['name']} did not sleep."])
            elif self.chance(0.45):
                entry += self.pick([f" {mate['name']} saw {article(self.pick(ANIMALS))} on the {self.pick(LANDS)}.",
                                    f" Passed {self.place()} at {self.pick(['noon', 'dusk', 'dawn'])}.", f" {mate['name']} is ill.",
                                    f" Mended the {self.pick(['sail', 'net', 'pump', 'rudder'])}."])
            lines.append(entry)
            day += 1
        lines.append(self.pick([f"Arrived in {goal} with {amount} of the {cargo} after {miles} miles.",
                                f"Anchored before {goal}. {capital(mate['name'])} goes ashore with the {cargo}."]))
        return "\n".join(lines)

    # ----------------------------------------------------------------------------------------------------- recipes

    def recipe(self):
        cook, town = self.person(), self.place()
        base, second = self.some(BASES, 2)
        spices, liquid, pot = self.some(SPICES, self.between(2, 3)), self.pick(LIQUIDS), self.pick(POTS)
        cups, hours = self.between(2, 6), self.between(1, 5)
        dish = self.pick(["stew", "soup", "pie", "porridge", "pudding"])
        listed = f"{', '.join(spices[:-1])} and {spices[-1]}"
        lines = [f"{capital(base)} {dish} as {cook['name']} of {town} makes it.",
                 f"Take {number(cups)} cups of {base}, {self.pick(['some', 'a little', 'a handful of', 'half as much'])} {second}, {listed}."]
        steps = [f"Wash the {base} and cut the {second} small.", f"Put the {second} into {pot} with {number(self.between(1, 4))} cups of {liquid}.",
                 f"Add the {spices[0]} when the {liquid} boils.", f"Let it stand for {number(hours)} hour{'s' if hours > 1 else ''}.",
                 f"Stir in the {spices[1]}, but slowly.", f"Taste, and add {self.pick(['salt', 'honey', 'butter', spices[-1]])}."]
        keep = self.between(3, len(steps))
        lines += [steps[i] for i in sorted(self.some(range(len(steps)), keep))]
        lines.append(self.pick([f"It feeds {number(cups * 2)}.", f"Eat the {dish} hot, with {self.pick(['bread', 'cheese', 'ale', 'onions'])}.",
                                f"{cook['name']} says: never without {spices[0]}.", f"In {town} they eat it in {self.pick(SEASONS)}."]))
        return self.paragraphs(lines)

    # ------------------------------------------------------------------------------------------- what is always so

    def gazetteer(self):
        lines = []
        for town in self.some(self.coast["towns"], self.between(2, 4)):
            facts = [f"{town['founder']} founded it in {town['year']}.", f"It sells {town['sells'][0]} and {town['sells'][1]}.",
                     f"The road to {town['near']} takes {number(town['days'])} days.", f"Its {town['sight']} is {town['looks']}.",
                     f"The people there fear the {town['fears']}."]
            keep = sorted(self.some(range(len(facts)), self.between(3, 5)))
            lines.append(" ".join([f"{town['name']} lies by the {town['land']}."] + [facts[i] for i in keep]))
        return "\n".join(lines)

    def folk(self):
        lines = []
        for who in self.some(self.coast["folk"], self.between(2, 4)):
            facts = [f"{capital(who['he'])} is {who['age']} years old and {who['mood']}.",
                     f"{capital(who['his'])} {who['pet']} is called {who['pet_name']}.",
                     f"{capital(who['he'])} owns {article(who['owns'])}.",
                     f"{capital(who['he'])} learnt it from {who['teacher']}.", f"On Sundays {who['he']} cooks {who['dish']}."]
            keep = sorted(self.some(range(len(facts)), self.between(3, 5)))
            lines.append(" ".join([f"{who['name']} is {article(who['trade'])} in {who['home']}."] + [facts[i] for i in keep]))
        return "\n".join(lines)

    # ----------------------------------------------------------------------------------------------------------------

    def paragraphs(self, lines):
        out = lines[0]
        for line in lines[1:]:
            out += ("\n" if self.chance(0.2) else " ") + line
        return out

    def text(self):
        kind = self.rng.random()
        for limit, make in ((0.27, self.tale), (0.38, self.letter), (0.47, self.ledger), (0.56, self.log),
                            (0.62, self.recipe), (0.80, self.gazetteer), (1.0, self.folk)):
            if kind < limit:
                return make()
        raise AssertionError(kind)


def make_coast():
    """The towns and people that are always the same, and all their names."""
    writer = Writer(random.Random(WORLD_SEED), None)
    folk = [writer.new_person() for _ in range(FOLK)]
    names = [writer.place() for _ in range(TOWNS)]
    towns = []
    for name in names:
        looks = writer.pick(sorted(GOODS))
        towns.append({"name": name, "land": writer.pick(LANDS), "founder": writer.pick(folk)["name"],
                      "year": writer.between(1100, 1799), "sells": writer.some(BULK, 2), "near": writer.pick(names),
                      "days": writer.between(2, 9), "sight": writer.pick(PLACES), "fears": writer.pick(ANIMALS),
                      "looks": f"older than the {writer.pick(PLACES)}" if writer.chance(0.3) else f"famous for its {looks}"})
    for who in folk:
        who |= {"home": writer.pick(names), "age": writer.between(18, 89), "pet": writer.pick(ANIMALS),
                "pet_name": writer.name(_PERSON_ENDINGS), "owns": writer.thing()["full"],
                "teacher": writer.pick(folk)["name"], "dish": f"{writer.pick(BASES)} with {writer.pick(SPICES)}"}
    return {"towns": towns, "folk": folk, "names": writer.used}


COAST = make_coast()


def text(rng):
    return Writer(rng, COAST).text()


def write(count, seed):
    """`count` texts. Different seeds give different texts, the first n of a seed are the same whatever the count."""
    rng = random.Random(seed)
    return [text(rng) for _ in range(count)]


def save(path, texts):
    path.write_text(SEPARATOR.join(texts) + "\n", encoding="ascii")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    args = parser.parse_args()
    save(args.file, write(args.count, args.seed))


if __name__ == "__main__":
    main()
