# ruff: noqa: RUF001  letters of several scripts that look alike are the point of these lists
"""Names and sentences of the simulated world, hand-picked, in several scripts."""

PAGE_NAMES = (
    "Corner Bakery",
    "Fahrrad Müller",
    "Café Zoë",
    "Książnica Łódź",
    "喜福茶馆",
    "مكتبة النور",
    "Pho 36 Phố Cổ",
    "Σκαλοπάτι Studio",
)

PEOPLE = (
    "Anna Kowalska",
    "Łukasz Żółty",
    "Zoë Ångström",
    "Jose\u0301 A\u0301ngel Pen\u0303a",  # combining accents
    "Nguyễn Thị Hằng",
    "Tra\u0302\u0300n Văn Đức",  # two marks on one letter
    "李雷",
    "王小明",
    "山田 花子",
    "김민준",
    "محمد الأحمد",
    "נועה כהן",
    "سارا رضایی",
    "Дмитро Шевченко",
    "Ελένη Παπαδοπούλου",
    "प्रिया शर्मा",
    "สมชาย ใจดี",
    "Siobhán O’Neill",
    "Gülşen Işık",
    "Nico 🎸 Baumann",
    "👩‍👩‍👧 The Hollands",
    "D’Arcy \u202eabc\u202c Lee",  # an explicit right-to-left override
    "𝓛𝓾𝓷𝓪 𝓜𝓲𝓼𝓽",  # beyond the basic plane
    'Robert "Bobby" O\\Tables',
)

HANDLES = ("luna", "marek", "noa", "priya", "sofia", "tomek", "xiaoming", "yara", "zoe", "bike", "crumbs", "teahouse")

SENTENCES = (
    "Hello! Are you open on Sunday?",
    "Thanks a lot 🙏🏽",
    "How much is delivery to the old town?",
    "Can I change my order from yesterday? It was two loaves, not three.",
    "👍",
    "ok",
    "I'd like to book a table for four, Friday at 7 pm.\nBy the window if you can.",
    "Bardzo dziękuję, do zobaczenia!",
    "Czy macie jeszcze rozmiar „M”?",
    "Grüße aus Köln – das Rad läuft wieder wie geschmiert.",
    "Ça marche, à demain !",
    "¿Cuánto cuesta el envío? Gracias 😊",
    "Tôi muốn mua hai hộp trà.",
    "Cha\u0300o shop, co\u0301 giao ha\u0300ng kho\u0302ng a\u0323?",
    "请问还有现货吗？",
    "好的，谢谢！",
    "明日の午後に取りに行きます。",
    "감사합니다 ♥",
    "هل يوجد توصيل اليوم؟",
    "شكرا جزيلا 🌹",
    "מתי אתם פותחים מחר?",
    "Добрий день, чи є знижка?",
    "Καλημέρα! Τι ώρα ανοίγετε;",
    "क्या आज दुकान खुली है?",
    "🏳️‍🌈❤️‍🔥👨‍👩‍👧‍👦",
    "Order 4711 — where is it? \u200f(رقم الطلب)",
    '<b>not bold</b> & "quoted" \\ back\\slash; DROP TABLE contacts;--',
    "tab\there, carriage\r\nreturn",
    "Z̸̡̛a̵͎͝l̶̰̽g̷̱̏o̶̥̍ says hi",
    "That is perfect. I will tell my sister, she has looked for this since spring, and her birthday is on the twelfth.",
)

FILE_NAMES = ("menu.pdf", "rechnung-0815.pdf", "план.docx", "見積書.xlsx")
